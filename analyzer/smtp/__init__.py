"""The dialogue: lines, direction and time in; commands, replies and messages out. No I/O, knows no packet."""
