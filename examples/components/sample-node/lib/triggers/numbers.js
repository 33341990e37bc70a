'use strict';

// A polling trigger: emits what is new since its snapshot, then moves the snapshot.
exports.process = async function numbers(msg, cfg, snapshot) {
    const first = (snapshot && snapshot.next) || 1;
    const last = cfg.last ? Number(cfg.last) : Infinity;
    const end = Math.min(first + Number(cfg.count || 10), last + 1);

    for (let number = first; number < end; number += 1) {
        await this.emit('data', { body: { number } });
    }
    if (end > first) await this.emit('snapshot', { next: end });
};
