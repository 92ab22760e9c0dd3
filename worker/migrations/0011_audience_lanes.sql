-- An audience lane's entries are found by (tenant, lane, seq), whoever they are for. No statement that names other rows can
-- take this index.
CREATE INDEX notifications_audience ON notifications (tenant_id, lane, seq) WHERE lane >= 3;
