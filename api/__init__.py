"""The shop's order API: routes call services, services call repositories, in one transaction per order."""
