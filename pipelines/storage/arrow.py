"""Objects as files of pyarrow, on top of obstore's file system for fsspec."""

from typing import Any

import pyarrow as pa
from pyarrow.fs import FSSpecHandler


class ObjectsHandler(FSSpecHandler):
    """As pyarrow's own handler; obstore takes only buffers of unsigned bytes, and pyarrow's are of signed ones."""

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        """A file that is written from its beginning and complete when it is closed."""
        return pa.PythonFile(_UnsignedWriter(self.fs.open(path, mode="wb")), mode="w")


class _UnsignedWriter:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        return self._file.write(memoryview(data).cast("B"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
