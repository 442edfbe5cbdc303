"""The frame: parameters, plug-ins, the stage contract, tracking, orchestration. Nothing here can change a number."""
