"""Bytes on disk to packet columns: sources, framing, and the engines that fill the PacketTable."""
