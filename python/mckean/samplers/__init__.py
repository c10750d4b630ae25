"""None"""


__all__ = []
