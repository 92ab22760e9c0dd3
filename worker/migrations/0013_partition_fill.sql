-- Partitions of `notifications` keep half of each page free. A notification's first send changes its row soon after it
-- was stored; where the new version finds room beside the old one and no indexed column changes, no index is written
-- (a heap-only tuple update). What is superseded leaves that room for the ack's version. Applied once, after the
-- migrations of lower numbers, under the same rules. make_partitions: as 0010_audiences.sql has it, but for that.
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
            IF parent = 'notifications' THEN
                EXECUTE format('ALTER TABLE %I SET (fillfactor = 50)', child);
            END IF;
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', child);
            EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', child);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           parent, child, a_day, a_day + 1);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

DO $$
DECLARE
    child regclass;
BEGIN
    FOR child IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'notifications'::regclass LOOP
        EXECUTE format('ALTER TABLE %s SET (fillfactor = 50)', child);
    END LOOP;
END $$;
