"""What `physique up` starts on one machine: which parts (parts), how they are kept alive (watch), what is written down of
them (running), and how what is left of them is found and stopped (processes)."""
