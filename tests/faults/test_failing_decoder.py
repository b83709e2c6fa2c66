"""Whatever tifffile raises or only logs: an error of one line, with nothing left open."""

import builtins
import importlib
import logging
import re
import struct
import sys
import threading

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import ResourceError
from isbi_infer.volumes import open_stack

GREY = {"photometric": "minisblack", "metadata": None}


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("x"),
        TypeError("x"),
        IndexError("x"),
        KeyError("x"),
        struct.error("x"),
        OSError(5, "EIO"),
        AssertionError(),
    ],
)
def test_whatever_the_decoder_raises_is_an_image_error(path, refused, stack, error, monkeypatch):
    def fail(self, **options):
        raise error

    tifffile.imwrite(path, stack(), **GREY, compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    assert "section 0" in refused(path, type(error).__name__ if not isinstance(error, OSError) else "EIO")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("x"), RecursionError("x")])
def test_whatever_the_parser_raises_is_an_image_error(path, refused, stack, error, monkeypatch):
    def fail(*arguments, **options):
        raise error

    tifffile.imwrite(path, stack(), **GREY)
    monkeypatch.setattr(tifffile, "TiffFile", fail)
    refused(path)


def test_error_that_tifffile_only_logs_is_an_image_error(path, refused, stack, monkeypatch):
    original = tifffile.TiffPage.asarray

    def log_and_go_on(self, **options):
        logging.getLogger("tifffile").error("segment is\nmissing")
        return original(self, **options)

    tifffile.imwrite(path, stack(), **GREY, compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", log_and_go_on)
    refused(path, "segment is missing")


def test_what_other_threads_log_is_neither_taken_nor_lost(path, stack, monkeypatch, caplog):
    logger = logging.getLogger("tifffile")
    original = tifffile.TiffPage.asarray

    def let_another_thread_log(self, **options):
        thread = threading.Thread(target=logger.error, args=("of another thread",))
        thread.start()
        thread.join()
        logger.warning("of this thread")
        return original(self, **options)

    tifffile.imwrite(path, stack(1), **GREY, compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", let_another_thread_log)
    with open_stack(path) as reader:
        np.testing.assert_array_equal(reader.read(0), stack(1)[0])
    assert [record.getMessage() for record in caplog.records] == ["of another thread"]
    assert not logger.filters


def test_error_logged_on_opening_leaves_no_open_file(path, refused, stack, monkeypatch):
    opened = []
    original, original_open = tifffile.TiffFile, builtins.open

    def log_and_go_on(file, **options):
        opened.append(file)
        logging.getLogger("tifffile").error("odd")
        return original(file, **options)

    tifffile.imwrite(path, stack(), **GREY)
    monkeypatch.setattr(tifffile, "TiffFile", log_and_go_on)
    refused(path, "odd")
    assert opened[0].closed
    assert builtins.open is original_open


def test_no_memory_for_a_sound_section_is_a_resource_error(path, stack, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    tifffile.imwrite(path, stack(), **GREY)
    with open_stack(path) as reader:
        monkeypatch.setattr(np, "empty", fail)
        with pytest.raises(ResourceError, match=re.escape(str(path))) as raised:
            reader.read(0)
    assert raised.value.exit_code == 7


def test_missing_codec_says_what_to_install(path, refused, stack, patch, monkeypatch):
    tifffile.imwrite(path, stack(), **GREY, compression="zlib")
    for page in range(3):
        patch(path, "Compression", 5, page)
    # As where imagecodecs is not installed: tifffile falls back on a module of its own.
    monkeypatch.setattr(tifffile.tifffile, "imagecodecs", importlib.import_module("tifffile._imagecodecs"))
    monkeypatch.setattr(tifffile.TIFF.DECOMPRESSORS, "_codecs", {})
    refused(path, "LZW.*pip install imagecodecs")


def test_a_codec_of_newer_pythons_says_what_to_install(path, refused, stack, monkeypatch):
    """Without imagecodecs tifffile decodes Zstandard by a module that comes with Python 3.14."""
    tifffile.imwrite(path, stack(), **GREY, compression="zstd")
    monkeypatch.setattr(tifffile.tifffile, "imagecodecs", importlib.import_module("tifffile._imagecodecs"))
    monkeypatch.setattr(tifffile.TIFF.DECOMPRESSORS, "_codecs", {})
    monkeypatch.setitem(sys.modules, "compression", None)
    refused(path, r"section 0: cannot be decompressed \(.*compression.*\); pip install imagecodecs")


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_compression_of_black_and_white_is_refused_for_grey_values(path, refused, stack, patch, code):
    """Its decoders make pixels of any bytes, so that one changed bit of a tag would pass for an image."""
    tifffile.imwrite(path, stack(1), **GREY, compression="zlib")
    patch(path, "Compression", code)
    refused(path, "black and white alone")


def test_unknown_compression_is_refused(path, refused, stack, patch):
    tifffile.imwrite(path, stack(1), **GREY, compression="zlib")
    patch(path, "Compression", 4711)
    refused(path, "4711")
