-- When its sender took it back: hidden from then on, whatever its status is or becomes (worker/recall.py).
ALTER TABLE notifications ADD COLUMN recalled_at timestamptz;
