"""Objects as files of pyarrow, on top of obstore's file system for fsspec."""

from typing import Any

import pyarrow as pa
from pyarrow.fs import FSSpecHandler


class ObjectsHandler(FSSpecHandler):
    """As pyarrow's own handler, but for what obstore does in another way.

    It takes only buffers of unsigned bytes, and pyarrow's are of signed ones. It lists folders among what is to be deleted, and
    Azure refuses to delete an object that does not exist.
    """

    def delete_dir(self, path: str) -> None:
        """Delete the objects below ``path``. There are no folders to delete."""
        if objects := self.fs.find(path):
            self.fs.rm(objects)

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
