-- How far role status has told upstream services what became of their notifications (worker/status_feed.py). What was
-- written before this migration is not told.
--
-- It reads notification_history in the order of history_id, which rows do not commit in. Whoever writes a row there has
-- locked or written a row of notifications or audience_state before, in the same transaction: its transaction has a number before it takes
-- a history_id. So once every transaction that had a number when history_ids stood at N is over, nothing up to N is
-- missing.
CREATE TABLE status_position (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    history_id bigint NOT NULL CHECK (history_id >= 0)  -- of the last one that Kafka has
) WITH (fillfactor = 50);
INSERT INTO status_position (history_id) SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM history_ids;

GRANT SELECT, UPDATE (history_id) ON status_position TO herald_dispatch;
GRANT SELECT ON SEQUENCE history_ids TO herald_dispatch;
