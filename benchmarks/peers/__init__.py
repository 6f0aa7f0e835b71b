"""Other model servers on the same work as the stream server: one small module and a requirements file each.

A peer's module needs its own requirements, so it runs in its own environment (`environments`), and the benchmarks
never import it. `catalogue` lists the peers, `launcher` starts them and checks their answers, `runner`
measures them in turn. May import `failures`, `report`, `load`, the models, and the client of `stream_server`.
"""
