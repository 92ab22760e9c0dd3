-- Who may come and who may not stay: issuers whose keys are fetched, revoked tokens. Applied once, after
-- 0001_initial.sql, under the same rules.

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

-- Issuers that publish their keys (RFC 7517 §5). Role inbox fetches them into issuer_keys.
CREATE TABLE jwks_issuers (
    issuer     text PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenants,
    audience   text NOT NULL,
    jwks_url   text NOT NULL,
    tried_at   timestamptz,                     -- of the last fetch begun, by whichever process
    fetched_at timestamptz,                     -- of the last one that brought keys
    created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE issuer_keys ADD COLUMN fetched boolean NOT NULL DEFAULT false;  -- from the issuer's JWKS

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['revocations', 'jwks_issuers'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY visible ON %I USING (tenant_id = ANY ((SELECT herald_visible())::text[]))', name);
    END LOOP;
END $$;

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

CREATE TRIGGER jwks_issuers_edge AFTER INSERT OR DELETE ON jwks_issuers
    FOR EACH STATEMENT EXECUTE FUNCTION raise_edge_version();

-- Keys that did not change are news as well: a kid unknown after a fetch is nobody's.
CREATE FUNCTION tell_edge() RETURNS trigger
    LANGUAGE plpgsql SET search_path = public, pg_temp
    AS $$
BEGIN
    PERFORM pg_notify('herald_edge', '');
    RETURN NULL;
END $$;
CREATE TRIGGER jwks_issuers_fetched AFTER UPDATE OF fetched_at ON jwks_issuers
    FOR EACH STATEMENT EXECUTE FUNCTION tell_edge();

-- --- who may do what -------------------------------------------------------------------------------------------
REVOKE ALL ON FUNCTION number_revocation(), tell_edge() FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON revocations, jwks_issuers TO herald_admin;
GRANT SELECT ON revocations, jwks_issuers TO herald_inbox;
GRANT UPDATE (tried_at, fetched_at) ON jwks_issuers TO herald_inbox;
GRANT INSERT, DELETE ON issuer_keys TO herald_inbox;
