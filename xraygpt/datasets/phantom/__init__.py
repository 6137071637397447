"""Phantoms: synthetic frontal chest radiographs with exact truth and a written report.

``truth`` draws what is wrong with a patient, ``canvas`` the patient and the exposure, ``render`` the image,
``report`` the radiologist's text. Everything here is synthetic: nothing is taken from patients.
"""
