"""A fake of Anthropic's Messages API in a process of its own, over real HTTP, for tests only."""
