"""Pure decisions: no clock, no disk, no threads, no log. Everything they need is an argument."""
