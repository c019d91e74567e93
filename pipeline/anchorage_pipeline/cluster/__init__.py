"""Kubeflow Pipelines: settings of the cluster, the compiled pipeline, and its versions, runs and schedule on a server.

The scripts, images and manifests in the top-level folder `kubeflow` use this package; that folder is no package itself,
since it would hide the published `kubeflow`.
"""
