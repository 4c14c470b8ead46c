"""The CDN origin: content by signed URL, with ranges, and an ETag of its own.

It knows no tokens and no repos: a valid URL is all that a request needs. Called on connection threads, reads one table.
"""

from __future__ import annotations

from collections.abc import Mapping

from .content import Blob
from .faults import xml_refusal
from .ranged import blob_answer
from .signing import Refused, Signer
from .wire import Answer, Request, plain


class Cdn:
    def __init__(self, signer: Signer, blobs: Mapping[str, Blob]) -> None:
        self._signer = signer
        self._blobs = blobs  # by their CDN hash

    def answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return plain(405, "Method Not Allowed", {"Allow": "GET, HEAD"})
        query = request.query
        try:
            self._signer.check(request.path, query)
        except Refused as refused:
            return xml_refusal(str(refused))
        blob = self._blobs.get(request.path.rpartition("/")[2])
        if blob is None:
            return plain(404, "Not Found")
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": query.get("response-content-disposition", "inline"),
            "Cache-Control": "public, max-age=31536000",
        }
        return blob_answer(request, blob, f'"{blob.cdn_hash}"', headers)
