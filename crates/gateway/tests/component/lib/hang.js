// Returns nothing and never ends: only a watchdog helps.
exports.process = function hang() {};
