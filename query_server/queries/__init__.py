"""The domain's QueryService: every rpc bound to its handler."""
