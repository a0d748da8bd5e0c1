"""Results and logs as a run writes them, for the claims about what reads them."""

from core import log_files, records


def write_pair(path, result, log, compressed=False):
    """Write a result, and before it its log."""
    digest = log_files.write_log(records.debug_path(path, compressed), log)
    records.write_json(path, result | {records.DIGEST_OF_LOG: digest})
