-- The users' keys, in a database of their own: its backups expire within days, so that erasing a user holds.

CREATE TABLE user_keys (
    tenant_id   text NOT NULL,
    entity_id   text NOT NULL,
    key_version integer NOT NULL,
    wrapped_key bytea NOT NULL,                 -- under the tenant key (worker/keys.py)
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, entity_id, key_version)
);
ALTER TABLE user_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY visible ON user_keys
    USING (tenant_id = ANY ((SELECT string_to_array(current_setting('herald.tenants', true), ','))::text[]));

GRANT SELECT, INSERT ON user_keys TO herald_dispatch;
GRANT SELECT ON user_keys TO herald_inbox;
