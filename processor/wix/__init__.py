"""The Wix boundary: wire models, signatures, parsing, credentials and the REST client."""
