-- Who may not stay: revoked tokens. Applied once, after 0001_initial.sql, under the same rules.

-- Gateways take revocations as they come, in the order of `version`, which log_state.revocations_version counts: its
-- row is locked until the transaction ends, so a version is never seen before a lower one.
ALTER TABLE log_state ADD COLUMN revocations_version bigint NOT NULL DEFAULT 0;

CREATE TABLE revocations (
    tenant_id  text NOT NULL REFERENCES tenants,
    kind       text NOT NULL CHECK (kind IN ('jti', 'user', 'tenant')),
    value      text NOT NULL,                   -- the jti or the user; '' = everybody of the tenant
    not_before timestamptz NOT NULL,            -- user, tenant: tokens issued before this count no more
    revoked_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,            -- the tokens it is about have expired by themselves
    version    bigint NOT NULL DEFAULT 0,       -- set by the trigger below
    PRIMARY KEY (tenant_id, kind, value)
);
CREATE INDEX revocations_version ON revocations (version);

ALTER TABLE revocations ENABLE ROW LEVEL SECURITY;
ALTER TABLE revocations FORCE ROW LEVEL SECURITY;
CREATE POLICY visible ON revocations USING (tenant_id = ANY ((SELECT herald_visible())::text[]));

-- --- telling the gateways --------------------------------------------------------------------------------------
-- Role inbox listens on herald_edge (worker/edge_hint.py) and passes it on over the bus.
CREATE FUNCTION number_revocation() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$
BEGIN
    UPDATE log_state SET revocations_version = revocations_version + 1 RETURNING revocations_version INTO NEW.version;
    PERFORM pg_notify('herald_edge', '');
    RETURN NEW;
END $$;
CREATE TRIGGER revocations_number BEFORE INSERT OR UPDATE ON revocations
    FOR EACH ROW EXECUTE FUNCTION number_revocation();

CREATE OR REPLACE FUNCTION raise_edge_version() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$
BEGIN
    UPDATE log_state SET edge_version = edge_version + 1;
    PERFORM pg_notify('herald_edge', '');
    RETURN NULL;
END $$;

-- --- who may do what -------------------------------------------------------------------------------------------
REVOKE ALL ON FUNCTION number_revocation() FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON revocations TO herald_admin;
GRANT SELECT ON revocations TO herald_inbox;
