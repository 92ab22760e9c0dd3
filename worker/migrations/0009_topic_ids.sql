-- Which log a position is of. Applied once, after the migrations of lower numbers, under the same rules.

-- Kafka's id of the topic; NULL until a worker has heard it: a broker older than Kafka 2.8 has none.
ALTER TABLE positions ADD COLUMN topic_id uuid;
