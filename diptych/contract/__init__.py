"""The wire contract, for servers and clients: tokens, reasons, validation and frames."""
