"""Bytes on disk to packet columns: sources, framing, and the engines that fill the PacketTable.

    sources  ->  windows  ->  framing (walk)  ->  columnar  ->  PacketTable
    what is      16 MiB       where each          |  declined
    read         at a time    record lies         exact (fragments)
                                                  wireshark: formats and link types that the others do not know

`reading.read` is the entrance, and `growing.Growing` that for captures which are still being written; `wanted` says which packets get a row, and counts the others.
"""
