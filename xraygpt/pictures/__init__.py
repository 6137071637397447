"""Image files as published, DICOM included, to 8-bit grey and to the small files that training reads.

``raster`` and ``dicom`` decode a file to 8-bit grey, ``reading`` tells which of them it is for, ``shrink``
makes it smaller, ``convert`` does it all and encodes the result. Nothing here imports
torch: it runs in a pool of light processes.
"""
