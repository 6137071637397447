"""Image files as published, DICOM included, to the small 8-bit files that training reads.

``raster`` and ``dicom`` decode a file to 8-bit grey, ``shrink`` makes it smaller, ``convert`` does both and
encodes the result. Nothing here imports torch: it runs in a pool of light processes.
"""
