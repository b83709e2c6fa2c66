"""Training, data, augmentation and evaluation for membrane segmentation.

Importing the package brings in neither torch nor numba; its modules import what they need.
"""
