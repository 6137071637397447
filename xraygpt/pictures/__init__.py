"""The only code that opens image files, DICOM included.

``reading`` decodes a file of any kind, for DICOM with ``dicom``; ``grey`` says what comes out and what is
refused; ``convert`` makes the small files that training reads. Nothing here imports torch: it runs in a pool
of light processes.
"""
