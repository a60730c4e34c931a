"""Packet columns to connections: who talks to whom, the fate of each segment, the path MTU, the streams."""
