"""Front doors: one file for each thing seen under Deployments; nobody imports them."""
