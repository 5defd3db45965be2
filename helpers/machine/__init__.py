"""What the computer needs: files, devices, kernels, checkpoints, memory, processes, clocks. Lessons call these modules
and do not teach them. They know nothing of the model or of the course.

This file imports nothing, because environment.py must run where packages are missing.
"""
