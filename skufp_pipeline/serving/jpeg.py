"""Pictures as the service writes them to disk."""

import io

from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import PhotoError, open_photo

QUALITY = 95


def upright_jpeg(picture: bytes) -> bytes:
    """A picture of any format as an upright JPEG of the same size, without metadata such as GPS.

    Raises UserError, caused by a PhotoError, if it can't be decoded.
    """
    buffer = io.BytesIO()
    try:
        open_photo(picture).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    except PhotoError as error:
        raise UserError(f"The picture {error.why}.") from error
    return buffer.getvalue()
