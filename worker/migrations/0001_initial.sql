-- Herald's tables. Applied once, in one transaction, by worker/migrate.py; the login roles exist already.
--
-- Row-level security is FORCEd on every table that holds a tenant's rows: a transaction sees the tenants named in
-- the setting herald.tenants ("a,b") and nothing else; without the setting it sees nothing. The owner of the tables
-- is bound by it too. What belongs to no tenant (a gap in a gateway's receipts) has tenant_id '*', which no tenant
-- can be called.
--
-- Big tables are partitioned by `day`: the UTC date in the UUIDv7 (connections, audit_events: of created_at, at).
-- The date of a record never depends on when we look at it, so a redelivery finds the first copy.

CREATE FUNCTION herald_visible() RETURNS text[]
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN string_to_array(current_setting('herald.tenants', true), ',');

-- --- tenants ---------------------------------------------------------------------------------------------------
CREATE TABLE tenants (
    tenant_id       text PRIMARY KEY,
    tenant_name     text NOT NULL,
    status          text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    origins         text[] NOT NULL DEFAULT '{}',
    wrapped_key     bytea NOT NULL,             -- the tenant key under the master key (worker/keys.py)
    key_version     integer NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    last_updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE issuer_keys (
    tenant_id  text NOT NULL REFERENCES tenants,
    issuer     text NOT NULL,
    audience   text NOT NULL,
    kid        text NOT NULL,                   -- '' = the key of tokens without kid
    algorithm  text NOT NULL CHECK (algorithm IN ('HS256', 'RS256', 'ES256', 'EdDSA')),
    sealed_key bytea NOT NULL,                  -- HMAC secret or PEM under the master key (worker/keys.py)
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, kid)
);

-- --- the log ---------------------------------------------------------------------------------------------------
-- epoch: raised whenever cursors given out before cannot be trusted (PostgreSQL went back in time). It starts at the
-- Unix second of the migration, so that a database made anew never repeats an epoch of an earlier one.
CREATE TABLE log_state (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch        bigint NOT NULL DEFAULT extract(epoch FROM now())::bigint,
    edge_version bigint NOT NULL DEFAULT 1      -- raised by every change of tenants or issuer_keys
);
INSERT INTO log_state DEFAULT VALUES;

CREATE TABLE positions (
    topic       text NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

-- --- a user's lanes --------------------------------------------------------------------------------------------
CREATE TABLE lane_heads (
    tenant_id text NOT NULL,
    entity_id text NOT NULL,
    lane      smallint NOT NULL,
    seq       bigint NOT NULL CHECK (seq > 0),  -- of the newest entry
    PRIMARY KEY (tenant_id, entity_id, lane)
) WITH (fillfactor = 70);

-- Locked before lane_heads and always in (tenant_id, entity_id) order: whoever changes a user's rows raises rev here.
CREATE TABLE user_state (
    tenant_id text NOT NULL,
    entity_id text NOT NULL,
    rev       bigint NOT NULL,
    PRIMARY KEY (tenant_id, entity_id)
) WITH (fillfactor = 70);

-- --- notifications ---------------------------------------------------------------------------------------------
CREATE TABLE notifications (
    day             date NOT NULL,
    tenant_id       text NOT NULL,
    notification_id uuid NOT NULL,
    entity_id       text NOT NULL,
    lane            smallint NOT NULL,
    seq             bigint NOT NULL,
    prev            bigint NOT NULL,            -- seq of the lane's entry before; 0 for the first
    type            text NOT NULL,
    priority        smallint NOT NULL,          -- 0 high, 1 medium, 2 low
    payload         bytea NOT NULL,             -- frames.Payload as JSON, sealed under the user's key
    key_version     integer NOT NULL,           -- of the user's key
    action          text NOT NULL DEFAULT 'notify',
    collapse_key    text,
    not_before      timestamptz,
    sent_at         timestamptz NOT NULL,       -- the broker's time, or our first sight
    ttl             integer NOT NULL,           -- seconds
    expiry          timestamptz NOT NULL,
    status          text NOT NULL,              -- codes.Status
    rank            smallint NOT NULL,          -- codes.Rank; only rises
    status_code     smallint NOT NULL,          -- codes.StatusCode
    attempt         smallint NOT NULL DEFAULT 0,
    due_at          timestamptz,                -- when the sweeper looks at it; NULL = never
    rev             bigint NOT NULL,            -- user_state.rev at the last change
    body_hash       bytea NOT NULL,
    seen_at         timestamptz,
    read_at         timestamptz,
    archived_at     timestamptz,
    PRIMARY KEY (day, tenant_id, notification_id, entity_id)
) PARTITION BY RANGE (day);
CREATE INDEX notifications_due ON notifications (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX notifications_lane ON notifications (tenant_id, entity_id, lane, seq);
CREATE INDEX notifications_inbox ON notifications (tenant_id, entity_id, notification_id);

CREATE SEQUENCE history_ids;
CREATE TABLE notification_history (
    day             date NOT NULL,
    history_id      bigint NOT NULL DEFAULT nextval('history_ids'),
    tenant_id       text NOT NULL,
    notification_id uuid NOT NULL,
    entity_id       text NOT NULL,
    status          text NOT NULL,
    status_code     smallint NOT NULL,
    timestamp       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (day, history_id)
) PARTITION BY RANGE (day);
CREATE INDEX notification_history_of ON notification_history (tenant_id, notification_id);

-- --- what gateways report --------------------------------------------------------------------------------------
CREATE TABLE connections (
    day            date NOT NULL,
    connection_id  text NOT NULL,
    tenant_id      text NOT NULL,
    entity_id      text NOT NULL,
    device         text NOT NULL,
    gateway_id     text NOT NULL,
    status         text NOT NULL,
    created_at     timestamptz NOT NULL,
    last_active_at timestamptz NOT NULL,
    close_code     integer,
    PRIMARY KEY (day, connection_id)
) PARTITION BY RANGE (day);
CREATE INDEX connections_of ON connections (tenant_id, entity_id);

CREATE TABLE receipts_progress (
    gateway_id text PRIMARY KEY,
    number     bigint NOT NULL,                 -- of the last entry stored
    last_at    timestamptz NOT NULL
);

CREATE TABLE audit_events (
    day       date NOT NULL,
    tenant_id text NOT NULL,
    event     text NOT NULL,
    detail    jsonb NOT NULL DEFAULT '{}',
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (day);
CREATE INDEX audit_events_at ON audit_events (tenant_id, at);

-- --- row-level security ----------------------------------------------------------------------------------------
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tenants', 'issuer_keys', 'lane_heads', 'user_state', 'notifications',
                                'notification_history', 'connections', 'audit_events'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        -- The sub-select is evaluated once per statement, not once per row.
        EXECUTE format('CREATE POLICY visible ON %I USING (tenant_id = ANY ((SELECT herald_visible())::text[]))', name);
    END LOOP;
END $$;

-- The owner alone may list the tenants; tenant_ids() lends that, and only the names, to the worker roles: the
-- sweeper and the edge snapshot name all of them in herald.tenants.
CREATE POLICY directory ON tenants FOR SELECT TO CURRENT_USER USING (true);

CREATE FUNCTION tenant_ids() RETURNS text[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    AS $$ SELECT coalesce(array_agg(tenant_id ORDER BY tenant_id), '{}') FROM tenants $$;

CREATE FUNCTION raise_edge_version() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$
BEGIN
    UPDATE log_state SET edge_version = edge_version + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_edge AFTER INSERT OR UPDATE OR DELETE ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION raise_edge_version();
CREATE TRIGGER issuer_keys_edge AFTER INSERT OR UPDATE OR DELETE ON issuer_keys
    FOR EACH STATEMENT EXECUTE FUNCTION raise_edge_version();

-- --- partitions ------------------------------------------------------------------------------------------------
-- Makes the partitions of each day from first_day to last_day that do not exist yet; returns how many it made.
-- Attaching takes a lock that lets readers and writers go on, where CREATE TABLE ... PARTITION OF stops them.
-- A partition is reached through its parent only: no role is granted anything on it, and its own row-level
-- security has no policy, which refuses everyone.
CREATE FUNCTION make_partitions(first_day date, last_day date) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$
DECLARE
    parent text;
    child text;
    made integer := 0;
    a_day date;
BEGIN
    IF last_day - first_day > 120 THEN
        RAISE EXCEPTION 'make_partitions: at most 120 days at once';
    END IF;
    FOR a_day IN SELECT generate_series(first_day, last_day, interval '1 day')::date LOOP
        FOREACH parent IN ARRAY ARRAY['notifications', 'notification_history', 'connections', 'audit_events'] LOOP
            child := parent || to_char(a_day, '_YYYYMMDD');
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            PERFORM pg_advisory_xact_lock(hashtext('herald.make_partitions'));
            -- Looked up in the table itself: a name cache still says what was true before we waited.
            CONTINUE WHEN EXISTS (SELECT FROM pg_class WHERE relname = child AND relnamespace = 'public'::regnamespace);
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', child);
            EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', child);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           parent, child, a_day, a_day + 1);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

-- --- who may do what -------------------------------------------------------------------------------------------
REVOKE ALL ON FUNCTION tenant_ids(), make_partitions(date, date), raise_edge_version() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenant_ids()
    TO herald_dispatch, herald_receipts, herald_inbox, herald_admin;
GRANT EXECUTE ON FUNCTION make_partitions(date, date)
    TO herald_dispatch, herald_receipts, herald_inbox;

GRANT SELECT ON tenants TO herald_dispatch, herald_inbox;
GRANT SELECT (tenant_id, status) ON tenants TO herald_receipts;
GRANT SELECT, INSERT, UPDATE ON tenants TO herald_admin;
GRANT SELECT ON issuer_keys TO herald_inbox;
GRANT SELECT, INSERT, UPDATE, DELETE ON issuer_keys TO herald_admin;

GRANT SELECT ON log_state TO herald_dispatch, herald_receipts, herald_inbox, herald_admin;
GRANT UPDATE (epoch) ON log_state TO herald_dispatch;
GRANT SELECT, INSERT, UPDATE ON positions TO herald_dispatch;
GRANT SELECT ON positions TO herald_admin;

GRANT SELECT, INSERT, UPDATE ON lane_heads TO herald_dispatch;
GRANT SELECT ON lane_heads TO herald_inbox;
GRANT SELECT, INSERT, UPDATE ON user_state TO herald_dispatch, herald_receipts, herald_inbox;

GRANT SELECT, INSERT, UPDATE ON notifications TO herald_dispatch;
GRANT SELECT, UPDATE ON notifications TO herald_receipts, herald_inbox;
GRANT SELECT ON notifications TO herald_admin;
GRANT USAGE ON SEQUENCE history_ids TO herald_dispatch, herald_receipts, herald_inbox;
GRANT SELECT, INSERT ON notification_history TO herald_dispatch, herald_receipts, herald_inbox;
GRANT SELECT ON notification_history TO herald_admin;

GRANT SELECT, INSERT, UPDATE ON connections TO herald_receipts;
GRANT SELECT ON connections TO herald_admin;
GRANT SELECT, INSERT, UPDATE, DELETE ON receipts_progress TO herald_receipts;
GRANT INSERT ON audit_events TO herald_dispatch, herald_receipts, herald_inbox;
GRANT SELECT, INSERT ON audit_events TO herald_admin;
