"""Typed errors: each says what was got, what was expected and what to do."""


class IclError(Exception):
    """Base of every error this library raises on purpose.

    The message is built from three parts, so that no raise site can forget one.
    """

    def __init__(self, got: str, *, expected: str, fix: str) -> None:
        """Store the three parts; ``str(error)`` joins them."""
        super().__init__(got, expected, fix)
        self.got, self.expected, self.fix = got, expected, fix

    def __str__(self) -> str:
        """Return the three parts as one readable message."""
        return f"{self.got} (expected: {self.expected}; to fix: {self.fix})"

    def __reduce__(self) -> tuple[object, ...]:
        """Survive copying across processes, which positional-only pickling of keywords would not."""
        return _rebuild, (type(self), self.got, self.expected, self.fix)


def _rebuild(kind: type[IclError], got: str, expected: str, fix: str) -> IclError:
    return kind(got, expected=expected, fix=fix)


class DataError(IclError, ValueError):
    """The user's examples, or the file that holds them, cannot be used as they are."""


class TemplateError(DataError):
    """A template is malformed, or an example lacks a field that it names."""


class TooLongError(DataError):
    """An example does not fit the proxy's context."""


class SettingError(IclError, ValueError):
    """A hyper-parameter or argument is out of range, or two of them contradict each other."""


class BudgetError(SettingError):
    """Shots, token budget, quotas, include and exclude cannot be met together."""


class NonFiniteError(IclError, ValueError):
    """NaN or infinity where finite numbers are needed; the rows are named."""


class ProxyError(IclError, RuntimeError):
    """The proxy model cannot be loaded or cannot do what is needed."""


class StoreError(IclError, RuntimeError):
    """A gradient store cannot be used."""


class StaleStoreError(StoreError):
    """A store was made from other data or settings; the parts that differ are named."""


class CorruptStoreError(StoreError):
    """A file of a store does not hold what its manifest says."""


class StoreLockedError(StoreError):
    """Another process is writing to the store."""


class ArtefactError(IclError, ValueError):
    """A saved file (prompt, curriculum) is damaged, of an unknown version, or of another kind."""


class TuningError(IclError, RuntimeError):
    """Training diverged; the message says what is kept."""


class TargetError(IclError, RuntimeError):
    """The target cannot be reached, or refuses every request (a wrong key, an unknown model)."""


class OptionalDependencyError(IclError, ImportError):
    """An optional package is missing; the message carries the pip line."""


class EstimateError(IclError, RuntimeError):
    """First-order estimates do not rank real subsets, and the caller asked to be told."""


class EstimateWarning(UserWarning):
    """First-order estimates do not rank real subsets, and the caller asked to go on."""
