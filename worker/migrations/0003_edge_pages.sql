-- The edge snapshot is read page by page: the keys of some hundred tenants of ten thousand.
CREATE INDEX issuer_keys_tenant ON issuer_keys (tenant_id);
