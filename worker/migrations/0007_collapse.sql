-- Which notifications of a collapse key still wait (worker/collapse.py). Whatever is in flight has a due_at, so that the
-- index holds nothing else, and a notification without a key costs it nothing. The key comes first: no statement that
-- names rows by their key alone can take this index for the primary key's.
CREATE INDEX notifications_collapse ON notifications (collapse_key, tenant_id, entity_id)
    WHERE collapse_key IS NOT NULL AND due_at IS NOT NULL;
