"""Dovecot as a post office of our own runs it: the program, its settings and what it can do."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

PACKAGES = ("dovecot-core", "dovecot-imapd", "dovecot-lmtpd")
CONFIG = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = imap lmtp
listen = 127.0.0.1
ssl = yes
ssl_cert = <{folder}/cert.pem
ssl_key = <{folder}/key.pem
default_internal_user = {user}
default_login_user = {user}
default_internal_group = {group}
default_process_limit = 300
default_client_limit = 1000
first_valid_uid = 1
mail_location = maildir:{folder}/mail/%u
mail_uid = {user}
mail_gid = {group}
mail_fsync = never
auth_username_chars =
protocol imap {{
  {imap}
}}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={folder}/home/%u
}}
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {plain}
  }}
  inet_listener imaps {{
    port = {tls}
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
namespace inbox {{
  inbox = yes
}}
"""


def dovecot() -> str:
    """The program, installed if that can be done; the test is skipped, and says why, where there is none."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if found := shutil.which("dovecot", path=path):
        return found
    if os.geteuid() == 0 and (apt := shutil.which("apt-get")):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(
            [apt, "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", *PACKAGES],
            env=env,
            check=False,
        )
        if found := shutil.which("dovecot", path=path):
            return found
    pytest.skip(f"no dovecot here: install Debian's packages {' '.join(PACKAGES)}")


CAPABILITIES = (
    "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT THREAD=REFERENCES MULTIAPPEND UNSELECT CHILDREN NAMESPACE "
    "UIDPLUS LIST-EXTENDED I18NLEVEL=1 CONDSTORE QRESYNC ESEARCH ESORT SEARCHRES WITHIN CONTEXT=SEARCH LITERAL+"
).split()
