-- Named lists of a tenant's users. Applied once, after the migrations of lower numbers, under the same rules.

-- A segment that was deleted stays as a row, so that its version never begins anew: who was a member when is told by
-- versions alone. Whoever writes a segment's members holds its row locked.
CREATE TABLE segments (
    tenant_id  text NOT NULL REFERENCES tenants,
    segment_id text NOT NULL,
    version    bigint NOT NULL DEFAULT 0,       -- raised by each change of the members
    members    integer NOT NULL DEFAULT 0 CHECK (members >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at timestamptz,
    PRIMARY KEY (tenant_id, segment_id)
) WITH (fillfactor = 70);

-- A user was a member at version v if added_version <= v and v < removed_version (NULL: still is one).
CREATE TABLE segment_members (
    tenant_id       text NOT NULL,
    segment_id      text NOT NULL,
    entity_id       text NOT NULL,
    added_version   bigint NOT NULL,
    removed_version bigint CHECK (removed_version > added_version),
    PRIMARY KEY (tenant_id, segment_id, entity_id, added_version)
);
CREATE UNIQUE INDEX segment_members_now ON segment_members (tenant_id, segment_id, entity_id)
    WHERE removed_version IS NULL;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['segments', 'segment_members'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY visible ON %I USING (tenant_id = ANY ((SELECT herald_visible())::text[]))', name);
    END LOOP;
END $$;

GRANT SELECT, INSERT, UPDATE ON segments TO herald_admin;
GRANT SELECT, INSERT ON segment_members TO herald_admin;
GRANT UPDATE (removed_version) ON segment_members TO herald_admin;
