"""One method, one file, one frozen dataclass; all of them can be imported from `icl_plugins`."""
