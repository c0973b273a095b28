"""ResultStore: what a target answered, on disk, so that no question is paid for twice."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Self

from icl_plugins.artefacts import fingerprint
from icl_plugins.errors import ArtefactError
from icl_plugins.evaluation.records import COLUMNS, Conditions, Item, answer_of, checksum_of, columns_of
from icl_plugins.evaluation.target import Answer

_APPLICATION = 0x49434C52
_SCHEMA = 1
_BUSY_SECONDS = 60
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CORRUPT_INDEX", "SQLITE_CORRUPT_SEQUENCE")
_TABLES = (
    "CREATE TABLE texts (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, content TEXT NOT NULL)",
    """CREATE TABLE conditions (id INTEGER PRIMARY KEY, target TEXT NOT NULL, prompt TEXT NOT NULL,
    layout TEXT NOT NULL, kind TEXT NOT NULL, settings TEXT NOT NULL,
    prefix INTEGER NOT NULL REFERENCES texts, UNIQUE (target, prompt, layout, kind, settings))""",
    """CREATE TABLE answers (conditions INTEGER NOT NULL REFERENCES conditions,
    query INTEGER NOT NULL REFERENCES texts, choices INTEGER NOT NULL REFERENCES texts,
    text TEXT, scores BLOB, error TEXT, prompt_tokens INTEGER, completion_tokens INTEGER,
    cached_tokens INTEGER, cost REAL, seconds REAL NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (conditions, query, choices)) WITHOUT ROWID""",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_SCHEMA}",
)
_ADD_TEXT = "INSERT OR IGNORE INTO texts (sha256, content) VALUES (?, ?)"
_TEXT = "(SELECT id FROM texts WHERE sha256 = ?)"
_AT = f"conditions = ? AND query = {_TEXT} AND choices = {_TEXT}"
_FIND = f"SELECT {COLUMNS}, checksum FROM answers WHERE {_AT}"  # noqa: S608  # constants only
_FORGET_FAILURE = f"DELETE FROM answers WHERE {_AT} AND error IS NOT NULL"  # noqa: S608
_ADD_ANSWER = f"INSERT OR IGNORE INTO answers VALUES (?, {_TEXT}, {_TEXT}{', ?' * 9})"  # noqa: S608
_FIND_CONDITIONS = """SELECT id FROM conditions
WHERE target = ? AND prompt = ? AND layout = ? AND kind = ? AND settings = ?"""
_ADD_CONDITIONS = f"""INSERT OR IGNORE INTO conditions (target, prompt, layout, kind, settings, prefix)
VALUES (?, ?, ?, ?, ?, {_TEXT})"""  # noqa: S608


class ResultStore:
    """A SQLite file of requests and answers; also a context manager, which closes it.

    Each answer is written when it comes; the prompt is there once, not with every item. Several processes may
    use one file at a time, each with a ResultStore of its own. Raises ArtefactError for a file that is none
    or of a newer version, that is damaged, or that cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with self._errors():
            self._connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        self._ids: dict[str, int] = {}  # by fingerprint: conditions hold whole prompts
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def answer(self, conditions: Conditions, item: Item) -> Answer | None:
        """Return the answer kept for an item, None if there is none or its request failed."""
        with self._errors():
            row = self._connection.execute(_FIND, (self._id(conditions), *item.hashes)).fetchone()
        if row is None:
            return None
        *columns, checksum = row
        if checksum != checksum_of(conditions, item, columns):
            raise self._error("an answer does not match its checksum", damaged=True)
        return answer_of(columns)

    def keep(self, conditions: Conditions, item: Item, answer: Answer) -> None:
        """Write an answer or a failure; an answer that is there already stays."""
        columns = columns_of(answer)
        with self._errors():
            key = (self._id(conditions), *item.hashes)
            with self._transaction():
                self._connection.executemany(_ADD_TEXT, zip(item.hashes, item.texts, strict=True))
                self._connection.execute(_FORGET_FAILURE, key)
                self._connection.execute(
                    _ADD_ANSWER, (*key, *columns, checksum_of(conditions, item, columns))
                )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the file."""
        self.close()

    def _prepare(self) -> None:
        with self._transaction():
            kind, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
            if not kind and not version and not self._number("SELECT count(*) FROM sqlite_master"):
                for statement in _TABLES:
                    self._connection.execute(statement)
            elif (kind, version) != (_APPLICATION, _SCHEMA):
                newer = kind == _APPLICATION and version > _SCHEMA
                raise ArtefactError(
                    f"{self.path!r} is {'a newer' if newer else 'no'} result store",
                    expected=f"a result store of version {_SCHEMA}, or a path where there is no file",
                    fix="upgrade icl-plugins to read it" if newer else "choose another path",
                )
        self._write_ahead()
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def _write_ahead(self) -> None:
        """Keep a log beside the file; SQLite does not wait by itself for others that open it meanwhile."""
        given_up = monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > given_up:
                    raise
                sleep(0.01)

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])

    def _id(self, conditions: Conditions) -> int:
        """Return the number of the conditions in the file, where they are written if they are new."""
        known = self._ids.get(conditions.fingerprint)
        if known is None:
            *key, prefix = conditions.values
            hashed = fingerprint(prefix)
            with self._transaction():
                self._connection.execute(_ADD_TEXT, (hashed, prefix))
                self._connection.execute(_ADD_CONDITIONS, (*key, hashed))
            known = int(self._connection.execute(_FIND_CONDITIONS, key).fetchone()[0])
            self._ids[conditions.fingerprint] = known
        return known

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")  # a lock from the start, so that no writer has to retry
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            damaged = getattr(error, "sqlite_errorname", "") in _DAMAGED or "decode" in str(error)
            raise self._error(str(error), damaged=damaged) from error

    def _error(self, reason: str, *, damaged: bool) -> ArtefactError:
        if damaged:
            expected, fix = "a result store as it was written", "restore the file, or choose another path"
        else:
            expected = "a file that can be written, on a disk with room, that no other run holds for long"
            fix = "check folder, rights and room, and whether another run has stopped half-way"
        return ArtefactError(f"{self.path!r} cannot be used: {reason}", expected=expected, fix=fix)
