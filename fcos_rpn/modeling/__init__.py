"""The detector. Modules form floors: each imports only modules of lower floors."""
