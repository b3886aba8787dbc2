"""Deployments of all flows and what runs them elsewhere. Packaged, so that `dwh deploy` works from every install."""
