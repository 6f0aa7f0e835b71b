"""What ends a benchmark without a figure."""


class RunFailed(RuntimeError):
    """A load or a server came to no end or to no start, so that the run says nothing."""
