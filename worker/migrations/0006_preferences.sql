-- What a user wants to get (worker/preferences.py); NULL = nothing was ever set. It stands beside rev because the storing
-- transaction locks and reads that row anyway: a change is obeyed by the next batch, and costs no statement more.
ALTER TABLE user_state ADD COLUMN preferences jsonb;
GRANT SELECT (tenant_id, entity_id, preferences), INSERT (tenant_id, entity_id, rev, preferences), UPDATE (preferences)
    ON user_state TO herald_admin;
