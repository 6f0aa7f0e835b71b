"""The commands of ``stream-server``: each module has ``configure(parser)`` and ``run(args)``."""
