-- Notifications to a whole tenant or a segment of it: one row, whoever many they are for. Applied once, after the
-- migrations of lower numbers, under the same rules.

-- Such a row has the audience as its entity_id ('tenant', 'segment:ID') and lies in a lane of 3 to 5; no user is called
-- so. The heads of these lanes, and the rev that all their users' counters share, are those of entity 'tenant'.
ALTER TABLE notifications
    ADD COLUMN segment_version bigint,          -- who was a member at this version of the segment gets it
    ADD COLUMN topic text;                      -- for the preferences of each; a direct row was judged when it was stored

-- What one user did to one of them: there is a row from the first ack or mark on, none before.
CREATE TABLE audience_state (
    day             date NOT NULL,
    tenant_id       text NOT NULL,
    notification_id uuid NOT NULL,
    entity_id       text NOT NULL,              -- the user
    status          text NOT NULL DEFAULT 'ACCEPTED',
    rank            smallint NOT NULL DEFAULT 0,
    status_code     smallint NOT NULL DEFAULT 100,
    rev             bigint NOT NULL DEFAULT 0,  -- the user's user_state.rev at the last mark
    seen_at         timestamptz,
    read_at         timestamptz,
    archived_at     timestamptz,
    PRIMARY KEY (day, tenant_id, notification_id, entity_id)
) PARTITION BY RANGE (day);
ALTER TABLE audience_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE audience_state FORCE ROW LEVEL SECURITY;
CREATE POLICY visible ON audience_state USING (tenant_id = ANY ((SELECT herald_visible())::text[]));

-- The segments of a user.
CREATE INDEX segment_members_of ON segment_members (tenant_id, entity_id);

-- As 0001_initial.sql has it, with one parent more.
CREATE OR REPLACE FUNCTION make_partitions(first_day date, last_day date) RETURNS integer
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
        FOREACH parent IN ARRAY ARRAY['notifications', 'notification_history', 'connections', 'audit_events',
                                      'audience_state'] LOOP
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

GRANT SELECT, INSERT, UPDATE ON audience_state TO herald_receipts, herald_inbox;
GRANT SELECT ON audience_state TO herald_admin;
GRANT SELECT ON segments TO herald_dispatch;
GRANT SELECT ON segment_members TO herald_receipts, herald_inbox;
-- A changed preference changes what counts as unread.
GRANT SELECT (rev), UPDATE (rev) ON user_state TO herald_admin;
