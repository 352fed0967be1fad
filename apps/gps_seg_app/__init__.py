"""The clinician's app: polyp segmentation in the browser, on this machine only. Started by ``gps-seg app RUN``."""
