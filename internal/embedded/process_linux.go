package embedded

import "syscall"

// processAttributes: the child runs unprivileged if we are root, in a process
// group of its own so that a terminal's Ctrl-C reaches only us, and is told to
// shut down when we die.
func processAttributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	if uid, gid, ok := unprivileged(); ok {
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{}}
	}
	return attr
}
