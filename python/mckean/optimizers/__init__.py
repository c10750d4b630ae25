"""Points rather than measures: second-order optimisation with low-rank Hessians."""

__all__: list[str] = []
