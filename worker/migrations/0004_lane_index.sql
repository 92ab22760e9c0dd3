-- A lane's entries are found by (lane, tenant, user, seq). With the tenant first, the planner took this index, instead
-- of the primary key, for rows named by their key, wherever a partition had no statistics yet: and read through all
-- of a user's rows for each.
DROP INDEX notifications_lane;
CREATE INDEX notifications_lane ON notifications (lane, tenant_id, entity_id, seq);
